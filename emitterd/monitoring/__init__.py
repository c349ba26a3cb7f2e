"""What emitterd reports about itself: status, alarms, alerts, metrics, explanations.

It changes no file and no entry. `web` makes pages of what it reports. It may import `intake`,
`delivery` and all packages below those.
Main rule: `/healthz`, `status --check`, metrics and the page use one list of alarms.
"""
