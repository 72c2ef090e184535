"""What a person fills in (pages, tables, annotation tools), and the health of a data set."""
