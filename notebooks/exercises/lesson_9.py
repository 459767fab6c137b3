"""The judges of lesson 9's exercises (they spoil them)."""
