import type { ComponentChildren } from "preact";
import { Empty } from "../shared/states";
import type { Listed, Paged } from "./list";
import { Card, Pager, Shown } from "./parts";

export interface Column<Row> {
  head: ComponentChildren;
  cell: (row: Row) => ComponentChildren;
  /** Numbers stand under each other by their last digits. */
  isNumber?: boolean;
  /** Classes of its cells. */
  look?: string;
  /** Left out on a phone's screen. */
  wideOnly?: boolean;
  /** What its column adds up to. */
  total?: ComponentChildren;
}

/** A table that scrolls sideways by itself, by keyboard too. */
export function Table<Row>(props: {
  label: string;
  rows: Row[];
  keyOf: (row: Row) => string | number;
  columns: Column<Row>[];
}) {
  const { columns } = props;
  const hasTotal = columns.some((column) => column.total !== undefined);
  const classOf = (column: Column<Row>, more = "") =>
    [column.isNumber && "number", column.wideOnly && "wide-only", more].filter(Boolean).join(" ");
  return (
    <div class="table-wrap" role="region" aria-label={props.label} tabIndex={0}>
      <table class="table">
        <thead>
          <tr>
            {columns.map((column, index) => (
              <th scope="col" class={classOf(column)} key={index}>
                {column.head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {props.rows.map((row) => (
            <tr key={props.keyOf(row)}>
              {columns.map((column, index) => (
                <td class={classOf(column, column.look)} key={index}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
        {hasTotal && (
          <tfoot>
            <tr>
              {columns.map((column, index) => (
                <td class={classOf(column)} key={index}>
                  {index === 0 ? "Total" : column.total}
                </td>
              ))}
            </tr>
          </tfoot>
        )}
      </table>
    </div>
  );
}

/** A card with one page of a list, and the way to the others. */
export function ListCard<Answer extends Paged, Row>(props: {
  of: Listed<Answer>;
  rows: (answer: Answer) => Row[];
  empty: { title: string; text?: ComponentChildren };
  children: (rows: Row[]) => ComponentChildren;
}) {
  return (
    <Card flush>
      <Shown of={props.of} rows={12}>
        {(answer) => {
          const rows = props.rows(answer);
          if (rows.length > 0) return props.children(rows);
          return <Empty title={props.empty.title}>{props.empty.text}</Empty>;
        }}
      </Shown>
      <Pager of={props.of} />
    </Card>
  );
}
