#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine, in a mount namespace of its own (unshare -m), for tests.
# Usage: unshare -m tests/helpers/slurm/start.sh FOLDER
# Writes FOLDER/ready once both nodes are idle, then waits; ending it ends the daemons.
set -euo pipefail
folder=$1
mkdir -p "$folder/etc" "$folder/state" "$folder/n1" "$folder/n2"
host=$(hostname -s)
key=/etc/munge/munge.key
touch "$folder/gpu0" "$folder/gpu1"
cat >"$folder/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
MinJobAge=300
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=5
InactiveLimit=0
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=2 RealMemory=16000 Gres=gpu:1
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10
CONF
cat >"$folder/etc/gres.conf" <<CONF
NodeName=n1 Name=gpu File=$folder/gpu0
NodeName=n2 Name=gpu File=$folder/gpu1
CONF
mkdir -p /etc/slurm
mount --bind "$folder/etc" /etc/slurm
{ cat /etc/hosts && echo "127.0.0.1 n1 n2"; } >"$folder/hosts" # ranks of two nodes meet by name
mount --bind "$folder/hosts" /etc/hosts
[ -s "$key" ] || { mkdir -p /etc/munge && dd if=/dev/urandom bs=1 count=1024 of=$key status=none; }
mkdir -p /run/munge /var/log/munge /var/lib/munge
chown -R munge:munge /etc/munge /run/munge /var/log/munge /var/lib/munge
chmod 700 /etc/munge && chmod 400 $key && chmod 755 /run/munge
started=""
if ! munge -n >/dev/null 2>&1; then
  setpriv --reuid munge --regid munge --clear-groups munged --foreground >"$folder/munged.log" 2>&1 &
  started="$!"
fi
finish() {
  for node in n1 n2; do [ -f "$folder/slurmd-$node.pid" ] && kill "$(cat "$folder/slurmd-$node.pid")" 2>/dev/null; done
  [ -f "$folder/slurmctld.pid" ] && kill "$(cat "$folder/slurmctld.pid")" 2>/dev/null
  [ -n "$started" ] && kill "$started" 2>/dev/null
  exit 0
}
trap finish TERM INT EXIT
for _ in $(seq 50); do munge -n >/dev/null 2>&1 && break; sleep 0.2; done
slurmctld
for node in n1 n2; do slurmd -N $node; done
for _ in $(seq 100); do
  [ "$(sinfo -h -o %D -t idle -p main | paste -sd+ | bc 2>/dev/null || true)" = 2 ] && break
  sleep 0.2
done
touch "$folder/ready"
while kill -0 "$PPID" 2>/dev/null; do sleep 1; done # the tests
