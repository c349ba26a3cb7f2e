"""The second loop: workers take entries from the journal and deliver them.

Contains workers, retries, the circuit breakers and the number of workers. It may import
`housekeeping` and all packages below that, but not `intake`. Main rules: a retry is a row with a
due time, never a sleep. If the destination fails, all uploads pause, and one request at a time
probes it. Which code sets which wait:

- After the failure of one file: its row is due after `Backoff.due_at`.
- After the failure of a stage: `CircuitBreaker` sets the time of the next probe, also
  with `Backoff.due_at`. While the breaker is open, this time replaces the file's own.
- If the upload of several files in a row fails, a file that was not tried yet is a probe after
  `UNTRIED_EVERY_S`, although the pause is longer.
- If several stages are down, the longest wait applies (`Destination.acquire`).
- After a refused login: `client.session` sets a lockout, which is in the journal. The
  breaker waits for the longer of the lockout and the backoff.
- `Retry-After` of the server is added to the backoff, up to `RETRY_AFTER_CAP_S`.
- A brief failure of the API: `ApiClient` repeats the request within seconds, three
  times at most. Only the last failure reaches the waits above.
"""
