import signal, random
from stock_linux import *
use_huge_pages()
for i in range(9):
    with StockGuest("--cpus", "2", "--memory", "512M") as g:
        b=g.boot(); start_checkers(g)
        n=int(g.shell.run("dmesg | wc -l", 60)[0])
        for j in range(20):
            if sys.argv[1]=='stop':
                g.vm.signal(signal.SIGSTOP); time.sleep(random.uniform(.08,.3)); g.vm.signal(signal.SIGCONT)
            else: g.vm.update()
            time.sleep(random.uniform(0.2,0.8)); g.shell.run("echo %d"%j,60)
        print(sys.argv[1], repr(g.shell.run("dmesg | tail -n +%d"%(n+1),60,kernel_lines=True)[0]), min([r for r in [x['blackout-us'] for x in g.reports]] or [0]),flush=True)
