#!/usr/bin/env bash
# A real Kafka, one broker with its controller in it: see common.sh. `start` prints the address of the broker.
# Its topics outlive `stop` and `kill`.
#
#   kafka.sh java DIR CLASS ARGUMENTS   runs one of Kafka's own tools (org.apache.kafka.tools.…)
#
# KAFKA_TLS, a PEM file with the broker's key and certificates, opens another port for TLS at the first start; DIR/port.tls
# says which. KAFKA_PROPERTIES is added to the broker's own at the first start, such as transaction.max.timeout.ms=20000.
# The jars come from Maven Central, once, into the cache.
. "$(dirname "$0")/common.sh"

ports="broker controller${KAFKA_TLS:+ tls}"

version=4.1.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/afflux-tests/kafka-$version

need() {
    command -v java >/dev/null || install_packages openjdk-17-jre-headless
    [ -f "$cache/complete" ] && return
    command -v mvn >/dev/null || install_packages maven
    mkdir -p "$cache"
    # Two that come at once do it one after the other.
    exec 9>"$cache/lock"
    flock 9
    if [ ! -f "$cache/complete" ]; then
        cat >"$cache/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>jars</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
        mvn -q -B -f "$cache/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
            -DoutputDirectory="$cache/jars" >&2
        touch "$cache/complete"
    fi
    exec 9>&-
}

run() {
    local broker controller tls=
    broker=$(port_of broker)
    controller=$(port_of controller)
    [ -f "$dir/port.tls" ] && tls=,SSL://127.0.0.1:$(port_of tls)
    if [ ! -f "$dir/server.properties" ]; then
        cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$broker$tls,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$broker$tls
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:$controller
log.dirs=$dir/data
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
PROPERTIES
        printf '%s\n' ${KAFKA_PROPERTIES-} >>"$dir/server.properties"
        [ -z "${KAFKA_TLS-}" ] || printf 'ssl.keystore.%s\n' type=PEM "location=$KAFKA_TLS" >>"$dir/server.properties"
        java -Xmx128m -cp "$cache/jars/*" kafka.tools.StorageTool format --ignore-formatted \
            --cluster-id AAAAAAAAQACAAAAAAAAAAQ --config "$dir/server.properties"
    fi
    exec java -Xmx320m -Xms320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=info -cp "$cache/jars/*" \
        kafka.Kafka "$dir/server.properties"
}

# A client of its own would take longer than the broker: it says so itself.
started() {
    (exec 3<>"/dev/tcp/127.0.0.1/$(port_of broker)") && [ "$(grep -c 'Kafka Server started' "$dir/log")" -gt "$(cat "$dir/starts")" ]
}

ready() {
    wait_until started
}

address() {
    echo "127.0.0.1:$(port_of broker)"
}

case ${1-} in
    java)
        shift 2
        need
        exec java -Xmx256m -XX:TieredStopAtLevel=1 -cp "$cache/jars/*" "$@"
        ;;
    start)
        mkdir -p "$2"
        # How often it has started so far: its log goes on.
        grep -c 'Kafka Server started' "$2/log" >"$2/starts" 2>/dev/null || true
        [ -s "$2/starts" ] || echo 0 >"$2/starts"
        main "$@"
        ;;
    *) main "$@" ;;
esac
