import { init, type EChartsOption, type LineSeriesOption } from 'echarts';
import { letIn, simulate } from './storm.ts';

/** Nodes before one of them is gone. */
const NODES = [2, 3, 4, 5, 6, 8, 10, 15, 20];
const GONE = ['lost', 'stopped'] as const;
export const STREAMS_PER_NODE = 10_000;
export const SEED = 1;

/** How hard the storm is for those that are left, and how long it lasts: by nodes, for a node that is lost and for ones that are stopped. */
export function stormPicture(): string {
  const lines = GONE.flatMap((gone): LineSeriesOption[] => {
    const outcomes = NODES.map((nodes) =>
      simulate({ nodes, streamsPerNode: STREAMS_PER_NODE, gone, seed: SEED }),
    );
    const line = (panel: number, values: readonly number[]): LineSeriesOption => ({
      name: gone,
      type: 'line',
      symbolSize: 7,
      xAxisIndex: panel,
      yAxisIndex: panel,
      data: [...values],
    });
    return [
      line(
        0,
        outcomes.map(({ asked }) => asked),
      ),
      line(
        1,
        outcomes.map(({ share }) => Math.round(share * 100)),
      ),
      line(
        2,
        outcomes.map(({ over }) => Math.round(over * 10) / 10),
      ),
    ];
  });
  const limit = Math.round(letIn(STREAMS_PER_NODE));
  const [first] = lines;
  if (first !== undefined)
    first.markLine = {
      silent: true,
      symbol: 'none',
      lineStyle: { color: '#c00' },
      label: {
        formatter: `lets in ${limit.toLocaleString('en')}`,
        position: 'insideEndTop',
        color: '#c00',
      },
      data: [{ yAxis: limit }],
    };
  const axis = (panel: number, name: string, of: { type: 'log' | 'value'; min: number }) =>
    ({
      xAxis: {
        type: 'category',
        gridIndex: panel,
        name: 'nodes before',
        nameLocation: 'middle',
        nameGap: 28,
        data: NODES.map(String),
      },
      yAxis: { ...of, gridIndex: panel, name, nameTextStyle: { align: 'left' } },
    }) as const;
  const panels = [
    // Tens apart.
    axis(0, 'connects asked of a node, a second', { type: 'log', min: 10 }),
    axis(1, 'its CPU then, % of a processor', { type: 'value', min: 0 }),
    axis(2, 'seconds until all are back', { type: 'value', min: 0 }),
  ];
  const option: EChartsOption = {
    animation: false,
    backgroundColor: '#fff',
    title: {
      text: `One of several nodes of ${STREAMS_PER_NODE.toLocaleString('en')} streams is gone`,
      left: 'center',
      textStyle: { fontSize: 15 },
    },
    // The width of a text is a guess here, where there is no font.
    legend: { bottom: 4, itemGap: 30 },
    grid: panels.map((_, panel) => ({ left: 60 + 310 * panel, width: 240, top: 75, bottom: 80 })),
    xAxis: panels.map(({ xAxis }) => xAxis),
    yAxis: panels.map(({ yAxis }) => yAxis),
    series: lines,
  };
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: 940, height: 420 });
  chart.setOption(option);
  const svg = chart.renderToSVGString();
  chart.dispose();
  return renumbered(svg);
}

/** Charts and their styles are numbered in the order in which a process makes them. */
function renumbered(svg: string): string {
  const styles = new Map<string, string>();
  return svg.replaceAll(/\bzr\d+-/g, 'zr-').replaceAll(/\bzr-cls-\d+/g, (name) => {
    const known = styles.get(name) ?? `zr-cls-${styles.size}`;
    styles.set(name, known);
    return known;
  });
}
