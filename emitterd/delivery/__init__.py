"""The second loop: workers take entries from the journal and deliver them.

Here belong workers, retries, the circuit breakers and the number of workers. It may import
`housekeeping` and everything below it, but not `intake`. The one idea: a retry is a row with a due
time, never a sleep; a failing destination pauses all uploads, and one request at a time probes it.

Which wait is set where:

- After the failure of one file: its row is due after `Backoff.due_at`.
- After the failure of a stage: `CircuitBreaker` sets the time of the next probe, also
  with `Backoff.due_at`. While the breaker is open this time wins over the file's own.
- Several stages are down: the longest wait wins (`Destination.acquire`).
- After a refused login: `client.session` sets a lockout, which is in the journal. The
  breaker waits for the longer of the lockout and the backoff.
- `Retry-After` of the server is added to the backoff, up to `RETRY_AFTER_CAP_S`.
- A brief failure of the API: `EmissionClient` repeats the request within seconds, three
  times at most. Only the last failure reaches the waits above.
"""
