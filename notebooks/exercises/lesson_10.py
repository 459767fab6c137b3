"""The judges of lesson 10's exercises (they spoil them)."""
