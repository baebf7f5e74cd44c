"""Who a clinic is and what it may use: pure rules and small protocols."""
