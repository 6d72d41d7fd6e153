"""MedQuanBench's protocol (section 3 of the paper) on any model and any cases, resumable, here or on a cluster.

`plan` makes the cells, `measure` runs one, `summary` and `findings` bring the rows together, `results` and `tables`
write them down (`narrow` for a terminal). `medquant.bench.running` runs them all, `medquant.bench.cluster` on other
machines, and what is finished is kept in `medquant.bench.records`.
"""
