"""What the two sides say to each other, and every computation on which they must agree.

The test for what belongs here: if edge and service computed it differently, would that be a bug? No I/O, no clock, no
randomness of its own; the standard library, one codec library and `cryptography`.
"""
