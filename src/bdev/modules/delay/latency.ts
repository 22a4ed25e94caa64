/** The four latencies of a delay disk: places in memory that the main thread and every reactor share. */
export const Latency = { averageRead: 0, p99Read: 1, averageWrite: 2, p99Write: 3 } as const;
export type Latency = (typeof Latency)[keyof typeof Latency];
export const LATENCIES = 4;
