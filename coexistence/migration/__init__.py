"""Moving instruments from v2 to v4: converting configurations, cutover and rollback, and the evidence for them."""
