"""What emitterd reports about itself: status, alarms, metrics, page, explanations.

Here belongs what only looks. It may import `intake`, `delivery` and everything below them. The one
idea: one list of alarms serves `/healthz`, `status --check`, metrics and the page.
"""
