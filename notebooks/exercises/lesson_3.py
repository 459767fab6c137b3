"""The judges of lesson 3's exercises (they spoil them)."""
