"""What codes lose, by theory (codecs.md 2.1)."""

# E(x - x')^2 of Lloyd-Max codes for N(0, 1) at 0 to 8 bits.
LLOYD_ERRORS = [1.0, 0.3633802276, 0.1174818478, 0.0345477608, 0.0095010080, 0.0025046684, 0.0006442397, 0.0001634782, 0.0000411851]
