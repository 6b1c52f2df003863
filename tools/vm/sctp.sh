# SCTP through Services, in network namespaces: a client, two nodes on one segment, a pod on each. The endpoint of all
# Services is on node-2. objects.yaml has them.
set -u
# The shell would take its own.
ip() { /bin/ip "$@"; }
ip link set lo up
ip link add lan type bridge
ip link set lan up
machine() { # NAME: with a cable to the segment
    ip netns add "$1"
    ip -n "$1" link set lo up
    ip link add "$1" type veth peer name eth0 netns "$1"
    ip link set "$1" master lan up
    ip -n "$1" link set eth0 up
}
for number in 1 2; do
    other=$((3 - number))
    machine node-$number
    ip -n node-$number address add 192.0.2.$number/24 dev eth0
    ip -n node-$number address add 2001:db8::$number/64 dev eth0 nodad
    ip netns exec node-$number sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=2
    ip netns add pod-$number
    ip -n pod-$number link set lo up
    ip -n node-$number link add pod0 type veth peer name eth0 netns pod-$number
    ip -n node-$number link set pod0 up
    ip -n pod-$number link set eth0 up
    ip -n node-$number address add 10.1.$number.1/24 dev pod0
    ip -n node-$number address add fd10:1:$number::1/64 dev pod0 nodad
    ip -n pod-$number address add 10.1.$number.7/24 dev eth0
    ip -n pod-$number address add fd10:1:$number::7/64 dev eth0 nodad
    ip -n pod-$number route add default via 10.1.$number.1
    ip -n pod-$number route add default via fd10:1:$number::1
    ip -n node-$number route add 10.1.$other.0/24 via 192.0.2.$other
    ip -n node-$number route add fd10:1:$other::/64 via 2001:db8::$other
    # What is for a Service has to have a way, before it is translated.
    ip -n node-$number route add default via 192.0.2.100
    ip -n node-$number route add default via 2001:db8::100
done
machine client
ip -n client address add 192.0.2.100/24 dev eth0
ip -n client address add 2001:db8::100/64 dev eth0 nodad

modprobe sctp || { echo "no module sctp"; exit 1; }
mkdir /etc/objects && cp /etc/objects.yaml /etc/objects/
for number in 1 2; do
    ip netns exec node-$number headwater node /etc/objects --node-name node-$number \
        --cluster-cidr 10.1.0.0/16 --cluster-cidr fd10:1::/32 >/tmp/node-$number.log 2>&1 &
done
ip netns exec pod-2 sctp serve 10.1.2.7:9999 pod-2 &
ip netns exec pod-2 sctp serve '[fd10:1:2::7]:9999' pod-2 &
for number in 1 2; do
    tries=0
    until ip netns exec node-$number wget -qO /dev/null http://127.0.0.1:9181/readyz 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || { echo "node-$number is not ready"; cat /tmp/node-$number.log; exit 1; }
        sleep 1
    done
    echo "node-$number is ready"
done

bad=0
asks() { # FROM TARGET WORDS: what the answer begins with, or the error
    said=$(ip netns exec "$1" sctp ask "$2" 2>&1 | tr '\n' ' ')
    case "$said" in
    *"$3"*) echo "ok: $1 to $2: $said" ;;
    *)
        echo "NOT OK: $1 to $2: $said, and not: $3"
        bad=1
        ;;
    esac
}
ip -n client route add 10.96.0.0/24 via 192.0.2.1
ip -n client route add fd00:10:96::/64 via 2001:db8::1
asks pod-1 10.96.0.1:3868 "pod-2 saw 10.1.1.7:"
asks pod-1 '[fd00:10:96::1]:3868' "pod-2 saw [fd10:1:1::7]:"
asks pod-2 10.96.0.1:3868 "pod-2 saw 10.1.2.1:" # itself
asks node-1 10.96.0.1:3868 "pod-2 saw 192.0.2.1:"
asks client 10.96.0.1:3868 "pod-2 saw 192.0.2.1:"
asks client 192.0.2.2:30038 "pod-2 saw 192.0.2.100:"
asks client '[2001:db8::2]:30038' "pod-2 saw [2001:db8::100]:"
asks client 192.0.2.1:30038 "pod-2 saw 192.0.2.100:" # by tunnel
asks client '[2001:db8::1]:30038' "pod-2 saw [2001:db8::100]:"
asks client 192.0.2.1:30039 "pod-2 saw 192.0.2.1:"
asks client '[2001:db8::1]:30039' "pod-2 saw [2001:db8::1]:"
if [ $bad = 0 ]; then
    echo "all is as it should be"
else
    for number in 1 2; do
        echo "--- node-$number"
        cat /tmp/node-$number.log
        ip -n node-$number -s link show hwvx
        ip netns exec node-$number cat /proc/net/nf_conntrack 2>/dev/null | grep sctp
    done
fi
