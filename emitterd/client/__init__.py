"""The emission API and the S3 bucket over HTTP.

Contains everything that sends to the network or reads from it. It may import `spool`, `datasets`
and the modules at the top of `emitterd`. Main rule: one call is one attempt. The call returns, or
raises `DeliveryError`, whose `Decision` names the next step. No call takes longer than its time
limits.
"""
