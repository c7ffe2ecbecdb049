"""Keys, signatures, attestations, quorum and the ledger's hash chain."""
