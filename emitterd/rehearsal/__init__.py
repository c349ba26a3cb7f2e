"""The rehearsal server: a cQube server on this machine, for practice, with faults on request.

`server` serves one of two protocols. `endpoints`, `api`, `bucket`, `signing` and `processing` are
cQube 1.0 to 4.1; `ingestion_endpoints` and `ingestion` are cQube 5. Texts for people call it the
practice server. It may import `service` and all
packages below that, and only `cli` and the tests import it. Main rule: it checks signatures,
policies and digests as S3 does, so that the same requests work with S3.
"""
