"""The front door: one thin command for each verb."""
