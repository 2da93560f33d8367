import { init, type EChartsOption } from 'echarts';
import { median, type Figure } from './figures.ts';
import type { Result } from './report.ts';
import { format } from './workloads/workload.ts';

/** A drawing of how a figure grows. */
export interface Picture {
  /** Of its file, without what kind of file it is. */
  readonly name: string;
  readonly svg: string;
}

/** One for each figure that was measured at several sizes: a line for each system, the medians of its rounds. */
export function picturesOf(results: readonly Result[]): Picture[] {
  return results.flatMap(({ name: workload, figures }) => {
    const byName = Map.groupBy(
      figures.filter(({ at }) => at !== undefined),
      ({ name }) => name,
    );
    return [...byName].map(([name, grown]) => ({
      name: `${workload}-${name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')}`,
      svg: draw(name, grown),
    }));
  });
}

function draw(title: string, figures: readonly Figure[]): string {
  const [{ at, unit } = { at: undefined, unit: '' }] = figures;
  const systems = [
    ...new Set(figures.flatMap(({ rounds }) => Object.keys(rounds))),
  ] as (keyof Figure['rounds'])[];
  const sizes = figures.map((figure) => figure.at?.value ?? 0);
  const option: EChartsOption = {
    animation: false,
    backgroundColor: '#fff',
    title: { text: title, left: 'center', textStyle: { fontSize: 15 } },
    legend: { show: systems.length > 1, bottom: 4 },
    grid: { left: 70, right: 40, top: 60, bottom: systems.length > 1 ? 80 : 60 },
    // Sizes are tens apart.
    xAxis: {
      type: 'log',
      name: at?.of ?? '',
      nameLocation: 'middle',
      nameGap: 28,
      min: Math.min(...sizes),
      max: Math.max(...sizes),
      axisLabel: { formatter: (value: number) => value.toLocaleString('en') },
    },
    yAxis: { type: 'value', min: 0, name: unit },
    series: systems.map((system) => ({
      name: system,
      type: 'line',
      symbolSize: 8,
      label: { show: true, formatter: ({ value }) => label(value) },
      labelLayout: { hideOverlap: true },
      data: figures.flatMap(({ at: size, rounds }) =>
        size === undefined || rounds[system] === undefined ? [] : [[size.value, median(rounds[system])]],
      ),
    })),
  };
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: 640, height: 400 });
  chart.setOption(option);
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

const label = (value: unknown): string =>
  Array.isArray(value) && typeof value[1] === 'number' ? format(value[1]) : '';
