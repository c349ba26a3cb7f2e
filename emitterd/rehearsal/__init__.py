"""The rehearsal server: an emission API and its bucket on this machine, for practice.

Here belongs the far side as emitterd sees it, with faults on request. It may import `service` and
everything below it, and only `cli` and the tests import it. The one idea: it checks signatures,
policies and digests as S3 does, so what works here works there.
"""
