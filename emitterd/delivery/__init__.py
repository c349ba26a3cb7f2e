"""The second loop: workers take entries from the journal and deliver them.

Here belong workers, retries, the circuit breakers and the number of workers. It may
import `housekeeping` and everything below it, but not `intake`. The one idea: a retry
is a row with a due time, never a sleep; a failing destination pauses all uploads, and
one request at a time probes it.
"""
