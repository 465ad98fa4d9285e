"""Search for scale groups, widths and intervals: the space, its trials and what is made of them. Knows no Ray."""
