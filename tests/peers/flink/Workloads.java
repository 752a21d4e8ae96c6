// W2 and W3 of `afflux-bench stream` on Flink's DataStream API, without checkpoints and with one each second: one
// task for each operator, objects reused, state on the heap, checkpoints exactly once into files.
//
// usage: java Workloads.java DIR RECORDS_W2 RECORDS_W3     DIR takes the checkpoints.
// Reads `w2 0`, `w3 1000` from stdin, a workload and the milliseconds between checkpoints (0: none); prints one JSON
// line for each. From the job's RUNNING to its FINISHED, all threads of the process.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

public class Workloads {
    static final long SEED = 0x5EED1234ABCD0001L;
    static final long STEP = 0x9E3779B97F4A7C15L;
    static final long W3_KEYS = 10_000;
    static final AtomicLong CHECKSUM = new AtomicLong();
    static final AtomicLong RESULTS = new AtomicLong();

    static long random(long i) {
        long z = SEED + (i + 1) * STEP;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }

    /** Key, value, milliseconds. */
    static Tuple3<Long, Long, Long> record(long i, long keys) {
        long r = random(i);
        long back = (((r >>> 14) & 0xFFFF) * 101) >>> 16;
        return Tuple3.of((r >>> 1) % keys, r >>> 32, i / 1_000 + 100 - back);
    }

    static class Sum implements AggregateFunction<Tuple3<Long, Long, Long>, Long, Long> {
        @Override
        public Long createAccumulator() {
            return 0L;
        }

        @Override
        public Long add(Tuple3<Long, Long, Long> record, Long sum) {
            return sum + record.f1;
        }

        @Override
        public Long getResult(Long sum) {
            return sum;
        }

        @Override
        public Long merge(Long a, Long b) {
            return a + b;
        }
    }

    /** The term of the checksum: (2 * (window * keys + key) + 1) * sum. */
    static class Term extends ProcessWindowFunction<Long, Long, Long, TimeWindow> {
        @Override
        public void process(Long key, Context context, Iterable<Long> sums, Collector<Long> out) {
            long window = context.window().getStart() / 1_000;
            out.collect((2 * (window * W3_KEYS + key) + 1) * sums.iterator().next());
        }
    }

    /** One sum for each key, given out when the input ends: windows up to there cannot be checkpointed in Flink. */
    static class SumToTheEnd extends KeyedProcessFunction<Long, Tuple3<Long, Long, Long>, Long> {
        private transient ValueState<Long> sum;

        @Override
        public void open(OpenContext context) {
            sum = getRuntimeContext().getState(new ValueStateDescriptor<>("sum", Long.class));
        }

        @Override
        public void processElement(Tuple3<Long, Long, Long> record, Context context, Collector<Long> out) throws Exception {
            Long before = sum.value();
            if (before == null) {
                context.timerService().registerEventTimeTimer(Long.MAX_VALUE);
            }
            sum.update((before == null ? 0 : before) + record.f1);
        }

        @Override
        public void onTimer(long at, OnTimerContext context, Collector<Long> out) throws Exception {
            out.collect((2 * context.getCurrentKey() + 1) * sum.value());
        }
    }

    static double[] run(String workload, long records, long everyMs, String directory) throws Exception {
        Configuration configuration = new Configuration();
        configuration.setString("pipeline.object-reuse", "true");
        configuration.setString("state.backend.type", "hashmap");
        configuration.setString("execution.checkpointing.storage", "filesystem");
        configuration.setString("execution.checkpointing.dir", "file://" + directory);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1, configuration);
        if (everyMs > 0) {
            env.enableCheckpointing(everyMs);
        }
        long keys = workload.equals("w2") ? 1_000_000 : W3_KEYS;
        DataStream<Tuple3<Long, Long, Long>> rows = env.fromSequence(0, records - 1).map(i -> record(i, keys))
            .returns(new TypeHint<Tuple3<Long, Long, Long>>() {});
        DataStream<Long> terms;
        if (workload.equals("w2")) {
            terms = rows.keyBy(r -> r.f0).process(new SumToTheEnd());
        } else {
            terms = rows.assignTimestampsAndWatermarks(
                    WatermarkStrategy.<Tuple3<Long, Long, Long>>forBoundedOutOfOrderness(Duration.ofMillis(100))
                        .withTimestampAssigner((r, before) -> r.f2))
                .keyBy(r -> r.f0).window(TumblingEventTimeWindows.of(Duration.ofSeconds(1)))
                .aggregate(new Sum(), new Term());
        }
        CHECKSUM.set(0);
        RESULTS.set(0);
        terms.map(term -> {
            CHECKSUM.addAndGet(term);
            RESULTS.incrementAndGet();
            return term;
        }).returns(Long.class).sinkTo(new DiscardingSink<>());
        JobClient job = env.executeAsync(workload);
        while (true) {
            JobStatus status = job.getJobStatus().get();
            if (status == JobStatus.RUNNING || status.isTerminalState()) {
                break;
            }
            Thread.sleep(1);
        }
        long wall = System.nanoTime();
        long cpu = cpu();
        job.getJobExecutionResult().get();
        return new double[] {(System.nanoTime() - wall) / 1e9, (cpu() - cpu) / 1e9};
    }

    static long cpu() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    public static void main(String[] args) throws Exception {
        long[] records = {Long.parseLong(args[1]), Long.parseLong(args[2])};
        run("w2", records[0] / 4, 0, args[0]);
        run("w3", records[1] / 4, 0, args[0]);
        System.out.println("ready");
        BufferedReader asked = new BufferedReader(new InputStreamReader(System.in));
        for (String line = asked.readLine(); line != null; line = asked.readLine()) {
            String[] words = line.split(" ");
            long count = records[words[0].equals("w2") ? 0 : 1];
            double[] spent = run(words[0], count, Long.parseLong(words[1]), args[0]);
            System.out.printf("{\"workload\":\"%s\",\"checkpoint_ms\":%s,\"records\":%d,\"wall_s\":%.3f,\"cpu_s\":%.3f,"
                + "\"per_cpu_s\":%.0f,\"checksum\":\"%016x\",\"results\":%d}%n",
                words[0], words[1], count, spent[0], spent[1], count / spent[1], CHECKSUM.get(), RESULTS.get());
        }
        System.exit(0);
    }
}
