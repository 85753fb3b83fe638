import { Empty } from "../../shared/states";
import { PageHead } from "../parts";

export function NotFoundPage() {
  return (
    <>
      <PageHead title="Not found" />
      <Empty title="There is no such page">
        <a href="/console">Go to the overview</a>
      </Empty>
    </>
  );
}
