"""Sums of which nobody learns more than the sum, for any protocol that needs one.

Each file is one published construction: its members' mathematics, without messages. A protocol carries them.
"""
