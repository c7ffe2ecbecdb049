"""Focus Mode: what a context model is asked, what it answers, and the stories told from that."""
