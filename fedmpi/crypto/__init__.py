"""The one home of secrets: random numbers, keys, seals and masks.

Everything random that somebody must not guess comes from `random`. Keys are agreed on in `keys`, messages are
encrypted in `seal` and `envelope`, and `masks` stretches a key into words that hide numbers.
Nothing here knows what is hidden, or who talks to whom.
"""
