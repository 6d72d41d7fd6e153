"""MedQuanBench's protocol (section 3 of the paper) on any model and any cases, resumable, here or on a cluster.

`plan` makes the cells, `measure` runs one, `running` all of them, `summary` and `findings` bring the rows
together, `results` and `tables` write them down (`narrow` for a terminal). What is finished is kept in
`medquant.bench.records`.
"""
