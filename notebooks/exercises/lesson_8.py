"""The judges of lesson 8's exercises (they spoil them)."""
