"""The rehearsal server: an emission API and its bucket on this machine, for practice.

Behaves like the real server and bucket, with faults on request. It may import `service` and all
packages below that, and only `cli` and the tests import it. Main rule: it checks signatures,
policies and digests as S3 does, so that the same requests work with S3.
"""
