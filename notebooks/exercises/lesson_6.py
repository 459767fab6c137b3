"""The judges of lesson 6's exercises (they spoil them)."""
