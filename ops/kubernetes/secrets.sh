#!/bin/sh
# Makes every file of the Secrets that nodes and bus servers need, in the working directory: nodes/ and bus/ are what goes into the
# cluster; the authorities and keys beside them are the region, and stay with you. Run once; nothing is overwritten.
set -eu
umask 077
region=${1:-harbour}
domain=ccs.svc.cluster.local # the namespace, and the cluster's own

mkdir nodes bus
ccs keys region new region
ccs nats init --region "$region"
# Two authorities: whoever has the first can make nodes, the second is for servers only.
ccs certs init --directory raft --region "$region"
ccs certs init --directory servers --region "$region-servers"

for number in 0 1 2; do
    node=ccs-node-$number
    ccs certs issue "$node" --directory raft --into new
    mv "new/$node.crt" "nodes/$node.raft.crt"
    mv "new/$node.key" "nodes/$node.raft.key"
    ccs certs issue "$node" --directory servers --into new --host "$node.ccs-nodes.$domain" --host "ccs.$domain"
    mv "new/$node.crt" "nodes/$node.tls.crt"
    mv "new/$node.key" "nodes/$node.tls.key"
    ccs nats node "$node" --into "nodes/$node.creds"
    server=ccs-bus-$number
    ccs certs issue "$server" --directory servers --into bus --host "$server.ccs-bus.$domain" --host "ccs-bus.$domain"
done
rmdir new

cp region.key nodes/region.key
cp raft/ca.crt nodes/raft-ca.crt
cp servers/ca.crt nodes/ca.crt
cp servers/ca.crt bus/ca.crt
cp nats-keys/auth.conf bus/auth.conf
ccs token create admin --role admin --access nodes/access.toml > admin.token
ccs token create prometheus --role viewer --access nodes/access.toml > prometheus.token
