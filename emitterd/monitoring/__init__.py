"""What emitterd reports about itself: status, alarms, alerts, metrics, explanations.

Only reads; it changes nothing. It may import `intake`, `delivery` and all packages below those.
Main rule: `/healthz`, `status --check`, metrics and the page use one list of alarms.
"""
