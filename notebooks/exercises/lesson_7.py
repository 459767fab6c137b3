"""The judges of lesson 7's exercises (they spoil them)."""
