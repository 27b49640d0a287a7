"""Tests of the whole stack as a user starts it."""
