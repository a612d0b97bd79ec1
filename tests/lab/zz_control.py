import sys, time
from stock_linux import *
for i in range(4):
    with StockGuest("--cpus", "2", "--memory", "512M") as g:
        g.boot(); start_checkers(g)
        n=int(g.shell.run("dmesg | wc -l", 60)[0])
        t=time.time()
        while time.time()-t<50: checker_figures(g)
        print("control:", repr(g.shell.run("dmesg | tail -n +%d"%(n+1),60,kernel_lines=True)[0]), g.shell.values("labcheck clocks-status",60)['mono_gap_max'],flush=True)
