"""Says of one server what is wrong, who is to blame, and what helps."""
