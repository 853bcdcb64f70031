"""How fast: lastly beside its peers and the bare floor, in one run. `python3 dev.py bench`.

Nothing else imports it. From the top down: __main__, report and plot, runs, rows, sides.
"""
