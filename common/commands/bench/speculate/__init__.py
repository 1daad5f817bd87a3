"""`tandem bench speculate`: what drafting brings, by draft length, temperature and proposer."""
