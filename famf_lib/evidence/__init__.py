"""From results to verdicts: intervals, the rules of a claim, and the ledger of all claims."""
