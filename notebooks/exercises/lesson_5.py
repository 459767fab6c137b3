"""The judges of lesson 5's exercises (they spoil them)."""
