"""What `make bench` measures: the stacked engine against the loop engine, in one run, in alternation."""
