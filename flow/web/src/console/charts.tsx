import {
  BarController,
  BarElement,
  CategoryScale,
  Chart,
  LinearScale,
  Tooltip,
  type ChartDataset,
} from "chart.js";
import { useEffect, useRef } from "preact/hooks";
import { shortDay, usd } from "../shared/format";
import { useThemeVersion } from "../shared/theme";

Chart.register(BarController, BarElement, CategoryScale, LinearScale, Tooltip);

export interface Series {
  label: string;
  /** The name of a CSS variable. */
  colour: string;
  /** Dollars of each day, for drawing: sums come from the API. */
  values: number[];
}

/** Dollars by day, stacked. What it shows is also in a table: a canvas says nothing by itself. */
export function StackedDays(props: { label: string; days: string[]; series: Series[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const theme = useThemeVersion();
  const { days, series } = props;

  useEffect(() => {
    if (canvas.current === null) return;
    const chart = drawn(canvas.current, days, series);
    return () => chart.destroy();
  }, [JSON.stringify([days, series]), theme]);

  return (
    <figure class="chart">
      <div class="chart-canvas">
        <canvas ref={canvas} role="img" aria-label={props.label} />
      </div>
      <figcaption class="legend">
        {series.map((each) => (
          <span key={each.label}>
            <i style={{ background: `var(${each.colour})` }} />
            {each.label}
          </span>
        ))}
      </figcaption>
    </figure>
  );
}

function drawn(canvas: HTMLCanvasElement, days: string[], series: Series[]): Chart {
  const colour = (name: string) => resolved(canvas, name);
  const [text, line, surface] = [colour("--muted"), colour("--line"), colour("--surface")];
  const font = { family: getComputedStyle(document.body).fontFamily, size: 12 };
  const datasets: ChartDataset<"bar">[] = series.map((each) => ({
    label: each.label,
    data: each.values,
    backgroundColor: colour(each.colour),
    borderColor: surface,
    borderWidth: { top: 1 },
    borderRadius: 2,
    maxBarThickness: 36,
    categoryPercentage: 0.85,
  }));
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
  return new Chart(canvas, {
    type: "bar",
    data: { labels: days.map(shortDay), datasets },
    options: {
      animation: reduced ? false : { duration: 250 },
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: {
          stacked: true,
          grid: { display: false },
          border: { color: line },
          ticks: { color: text, font, maxRotation: 0, autoSkipPadding: 14 },
        },
        y: {
          stacked: true,
          beginAtZero: true,
          grid: { color: line },
          border: { display: false },
          ticks: { color: text, font, maxTicksLimit: 6, callback: (value) => usd(Number(value)) },
        },
      },
      plugins: {
        tooltip: {
          backgroundColor: colour("--text"),
          titleColor: surface,
          bodyColor: surface,
          footerColor: surface,
          titleFont: font,
          bodyFont: font,
          footerFont: font,
          padding: 10,
          filter: (item) => Number(item.raw) > 0,
          callbacks: {
            label: (item) => ` ${item.dataset.label}  ${usd(Number(item.raw))}`,
            footer: (items) =>
              `Total ${usd(items.reduce((sum, item) => sum + Number(item.raw), 0))}`,
          },
        },
      },
    },
  });
}

/** A canvas takes no variables and no `light-dark()`: the colour that the browser makes of one. */
function resolved(within: HTMLElement, name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  within.parentElement?.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
