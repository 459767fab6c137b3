"""The judges of lesson 4's exercises (they spoil them)."""
