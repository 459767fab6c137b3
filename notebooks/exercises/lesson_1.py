"""The judges of lesson 1's exercises (they spoil them)."""
