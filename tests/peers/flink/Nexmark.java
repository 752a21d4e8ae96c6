// Nexmark queries on Flink SQL, as a peer of `afflux-bench nexmark`: one task, events in memory before the
// clock starts, rows in Flink's own binary-free form, objects reused, results dropped by the blackhole connector.
//
// usage: java Nexmark.java DIR      DIR holds bid.json, auction.json, person.json.
// Reads names of queries from stdin, one a line; prints one JSON line for each. Each query runs twice in the same
// JVM and the second run is told: from the job's RUNNING to its FINISHED, all threads of the process.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.runtime.typeutils.InternalTypeInfo;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.RowType;

public class Nexmark {
    static final Map<String, GenericRowData[]> TABLES = new LinkedHashMap<>();
    static final Map<String, String[]> COLUMNS = new LinkedHashMap<>();
    static final Map<String, String> QUERIES = new LinkedHashMap<>();

    static {
        COLUMNS.put("bid", new String[] {"auction:l", "bidder:l", "price:l", "channel:s", "url:s", "date_time:t", "extra:s"});
        COLUMNS.put("auction", new String[] {"id:l", "item_name:s", "description:s", "initial_bid:l", "reserve:l",
            "date_time:t", "expires:t", "seller:l", "category:l", "extra:s"});
        COLUMNS.put("person", new String[] {"id:l", "name:s", "email_address:s", "credit_card:s", "city:s", "state:s",
            "date_time:t", "extra:s"});
        String ten = "INTERVAL '10' SECOND";
        QUERIES.put("q0", "SELECT auction, bidder, price, date_time, extra FROM bid");
        QUERIES.put("q1", "SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid");
        QUERIES.put("q2", "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0");
        QUERIES.put("q3", "SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id"
            + " WHERE a.category = 10 AND (p.state = 'or' OR p.state = 'id' OR p.state = 'ca')");
        QUERIES.put("q4", "SELECT category, AVG(f) AS price FROM (SELECT MAX(b.price) AS f, a.category FROM auction a, bid b"
            + " WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category)"
            + " GROUP BY category");
        String hop = "SELECT auction, COUNT(*) AS num, window_start AS s, window_end AS e FROM"
            + " TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, " + ten + "))"
            + " GROUP BY auction, window_start, window_end";
        QUERIES.put("q5", "SELECT x.auction, x.num FROM (" + hop + ") x JOIN (SELECT MAX(num) AS maxn, s, e FROM (" + hop
            + ") GROUP BY s, e) m ON x.s = m.s AND x.e = m.e AND x.num >= m.maxn");
        QUERIES.put("q7", "SELECT b.auction, b.price, b.bidder, b.date_time, b.extra FROM bid b JOIN (SELECT MAX(price) AS"
            + " maxprice, window_end AS w FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), " + ten + "))"
            + " GROUP BY window_start, window_end) m ON b.price = m.maxprice AND b.date_time BETWEEN m.w - " + ten
            + " AND m.w");
        QUERIES.put("q8", "SELECT p.id, p.name, p.s FROM (SELECT id, name, window_start AS s, window_end AS e FROM"
            + " TABLE(TUMBLE(TABLE person, DESCRIPTOR(date_time), " + ten + ")) GROUP BY id, name, window_start,"
            + " window_end) p JOIN (SELECT seller, window_start AS s, window_end AS e FROM TABLE(TUMBLE(TABLE auction,"
            + " DESCRIPTOR(date_time), " + ten + ")) GROUP BY seller, window_start, window_end) a"
            + " ON p.id = a.seller AND p.s = a.s AND p.e = a.e");
        QUERIES.put("q11", "SELECT bidder, COUNT(*) AS n, window_start, window_end FROM TABLE(SESSION(TABLE bid PARTITION BY"
            + " bidder, DESCRIPTOR(date_time), " + ten + ")) GROUP BY bidder, window_start, window_end");
        StringBuilder day = new StringBuilder("SELECT DATE_FORMAT(date_time, 'yyyy-MM-dd') AS d");
        String[] bands = {"TRUE", "price < 10000", "price >= 10000 AND price < 1000000", "price >= 1000000"};
        int name = 0;
        for (String what : new String[] {"*", "DISTINCT bidder", "DISTINCT auction"}) {
            for (String band : bands) {
                day.append(", COUNT(" + what + ") FILTER (WHERE " + band + ") AS c" + name++);
            }
        }
        QUERIES.put("q15", day + " FROM bid GROUP BY DATE_FORMAT(date_time, 'yyyy-MM-dd')");
        QUERIES.put("q18", "SELECT auction, bidder, price, channel, url, date_time, extra FROM (SELECT *, ROW_NUMBER() OVER"
            + " (PARTITION BY bidder, auction ORDER BY date_time DESC) AS r FROM bid) WHERE r <= 1");
        QUERIES.put("q20", "SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra, a.item_name,"
            + " a.description, a.initial_bid, a.reserve, a.date_time AS opened, a.expires, a.seller, a.category,"
            + " a.extra AS more FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10");
    }

    /** Finds a row in memory by its number. */
    static class Find implements MapFunction<Long, RowData> {
        private final String table;
        private transient GenericRowData[] rows;

        Find(String table) {
            this.table = table;
        }

        @Override
        public RowData map(Long index) {
            if (rows == null) {
                rows = TABLES.get(table);
            }
            return rows[index.intValue()];
        }
    }

    static void load(Path directory, String table) throws Exception {
        ObjectMapper mapper = new ObjectMapper();
        String[] columns = COLUMNS.get(table);
        List<GenericRowData> rows = new ArrayList<>();
        try (BufferedReader lines = Files.newBufferedReader(directory.resolve(table + ".json"))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                JsonNode node = mapper.readTree(line);
                GenericRowData row = new GenericRowData(columns.length);
                for (int i = 0; i < columns.length; i++) {
                    String[] column = columns[i].split(":");
                    JsonNode value = node.get(column[0]);
                    row.setField(i, switch (column[1]) {
                        case "l" -> value.asLong();
                        case "t" -> TimestampData.fromEpochMillis(value.asLong());
                        default -> StringData.fromString(value.asText());
                    });
                }
                rows.add(row);
            }
        }
        TABLES.put(table, rows.toArray(new GenericRowData[0]));
    }

    static double[] run(String query) throws Exception {
        Configuration configuration = new Configuration();
        configuration.setString("pipeline.object-reuse", "true");
        configuration.setString("table.local-time-zone", "UTC");
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1, configuration);
        StreamTableEnvironment tables = StreamTableEnvironment.create(env);
        String sql = QUERIES.get(query);
        for (String table : COLUMNS.keySet()) {
            if (!sql.contains(table)) {
                continue;
            }
            Schema.Builder schema = Schema.newBuilder();
            List<DataTypes.Field> fields = new ArrayList<>();
            for (String text : COLUMNS.get(table)) {
                String[] column = text.split(":");
                DataType type = switch (column[1]) {
                    case "l" -> DataTypes.BIGINT().notNull();
                    case "t" -> DataTypes.TIMESTAMP(3).notNull();
                    default -> DataTypes.STRING().notNull();
                };
                schema.column(column[0], type);
                fields.add(DataTypes.FIELD(column[0], type));
            }
            RowType type = (RowType) DataTypes.ROW(fields.toArray(new DataTypes.Field[0])).notNull().getLogicalType();
            schema.watermark("date_time", "date_time - INTERVAL '4' SECOND");
            DataStream<RowData> rows = env.fromSequence(0, TABLES.get(table).length - 1)
                .map(new Find(table)).returns(InternalTypeInfo.of(type));
            tables.createTemporaryView(table, rows, schema.build());
        }
        tables.createTemporaryView("answer", tables.sqlQuery(sql));
        StringBuilder ddl = new StringBuilder();
        tables.from("answer").getResolvedSchema().getColumns().forEach(column ->
            ddl.append(ddl.length() == 0 ? "" : ", ").append("`" + column.getName() + "` ")
                .append(column.getDataType().getLogicalType().asSerializableString().replace(" *ROWTIME*", "")));
        tables.executeSql("CREATE TEMPORARY TABLE sink (" + ddl + ") WITH ('connector' = 'blackhole')");
        TableResult result = tables.executeSql("INSERT INTO sink SELECT * FROM answer");
        JobClient job = result.getJobClient().get();
        while (true) {
            JobStatus status = job.getJobStatus().get();
            if (status == JobStatus.RUNNING || status.isTerminalState()) {
                break;
            }
            Thread.sleep(1);
        }
        long wall = System.nanoTime();
        long cpu = cpu();
        result.await();
        return new double[] {(System.nanoTime() - wall) / 1e9, (cpu() - cpu) / 1e9};
    }

    static long cpu() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    public static void main(String[] args) throws Exception {
        long events = 0;
        for (String table : COLUMNS.keySet()) {
            load(Path.of(args[0]), table);
            events += TABLES.get(table).length;
        }
        System.out.println("ready " + String.join(" ", QUERIES.keySet()));
        BufferedReader names = new BufferedReader(new InputStreamReader(System.in));
        for (String query = names.readLine(); query != null; query = names.readLine()) {
            run(query);
            double[] spent = run(query);
            System.out.printf("{\"query\":\"%s\",\"events\":%d,\"wall_s\":%.3f,\"cpu_s\":%.3f,\"per_cpu_s\":%.0f}%n",
                query, events, spent[0], spent[1], events / spent[1]);
        }
        System.exit(0);
    }
}
