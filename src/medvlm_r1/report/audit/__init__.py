"""The audits of data sets and models as HTML pages."""
