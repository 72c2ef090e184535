"""What a person fills in: pages and tables of annotation tools, and the health of a data set."""
