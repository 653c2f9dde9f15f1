"""HTML pages of data and model audits."""
