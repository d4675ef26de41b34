"""The one home of secrets: randomness, and later keys, seals and masks."""
