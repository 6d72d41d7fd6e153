"""MedQuanBench's protocol (section 3 of the paper) on any model and any cases, resumable, here or on a cluster.

`plan` makes the cells, `measure` runs one, `running` all of them, `records` keeps what is finished, `summary` and
`findings` bring the rows together, `tables` writes them down.
"""
